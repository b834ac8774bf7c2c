"""The released transcripts of the paper's RL runs: layout, cipher, fetching, checking, streaming."""
