"""python -m jobs.annotate ...: the same as `cotray annotate ...`."""

from cotray.cli import job

if __name__ == "__main__":
    raise SystemExit(job("annotate"))
