"""``python -m i0t.paper``."""

from i0t.paper.command import main

if __name__ == "__main__":
    main()
