"""`python -m digit`, and so `torchrun ... -m digit VERB`."""

from digit.run.main import main

if __name__ == "__main__":
    main()
