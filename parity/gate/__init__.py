"""The drift gate: a baseline of accepted runs, and whether a run may pass against it. `docs/gate.md`."""
