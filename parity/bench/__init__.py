"""What the models, the harness and its metrics cost on this machine, measured in interleaved rounds: docs/bench.md."""
