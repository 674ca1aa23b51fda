"""`python -m dashboard`: the command line, where the script `slipway` is not installed."""

from dashboard.cli import run

if __name__ == "__main__":
    run()
