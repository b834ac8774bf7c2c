"""The paper's claims and ours: tests on evidence, verdicts, the scorecard."""
