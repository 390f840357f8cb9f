"""All that talks to Kafka, and the only importer of `confluent_kafka`.

`source` cuts the log, `sink` commits a cut, `ledger_log` reads what was committed, `topics` knows names
and identities, `settings` turns our config into librdkafka's. `embedded` and `server` are brokers to try
things on: one in this process without transactions, one real.
"""
