"""Faults on real processes, a real Kafka and a real disk, and a checker that decides from outside what they did.

A program here injects one kind of fault into a running worker (`kills`, `zombies`, `endtxn`, `network`, `long`);
`look` reads topics and files afterwards and nothing else; `checker` judges what was read. Beside each fault
stands a naive variant (`naive`) that the same fault must break: a fault that breaks nothing proves nothing.

    python -m benchmarks.soak [--only r1,r3] [--dose small|full] [--seed S] [--json]
"""
