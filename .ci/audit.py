"""Known vulnerabilities of what requirements.lock pins, by pip-audit; what could not be asked is not called clean.

Exit 0 only when every package was looked up and none is vulnerable: pip-audit itself passes over packages that the
vulnerability service does not know, all of them when the service is a mirror without advisories.
"""

from __future__ import annotations

import json
import subprocess
import sys


def main(command: list[str]) -> int:
    done = subprocess.run(
        [*command, "--format", "json"], capture_output=True, text=True, check=False
    )
    try:
        told = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(
            f"NOT AUDITED: pip-audit gave no answer: {done.stderr.strip()[-600:]}", file=sys.stderr
        )
        return 1
    skipped = [one["name"] for one in told if "skip_reason" in one]
    bad = [one for one in told if one.get("vulns")]
    for one in bad:
        for fault in one["vulns"]:
            fixed = ", ".join(fault["fix_versions"]) or "no version yet"
            print(f"{one['name']} {one['version']}: {fault['id']}, mended in {fixed}")
    print(
        f"pip-audit: {len(told) - len(skipped)} of {len(told)} packages looked up, {len(bad)} vulnerable"
    )
    if skipped:
        print(
            f"NOT AUDITED: the vulnerability service knows nothing of {len(skipped)} packages ({', '.join(skipped[:5])},"
            " ...). It is the package index's JSON API, which mirrors often lack: run this where the index itself is reachable, or ask"
            " OSV instead: PIP_AUDIT_VULNERABILITY_SERVICE=osv make audit",
            file=sys.stderr,
        )
    return 1 if bad or skipped else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
