"""python -m jobs.train_pairs ...: the same as `cotray train_pairs ...`."""

from cotray.cli import job

if __name__ == "__main__":
    raise SystemExit(job("train_pairs"))
