"""python -m jobs.gate ...: the same as `cotray gate ...`."""

from cotray.cli import job

if __name__ == "__main__":
    raise SystemExit(job("gate"))
