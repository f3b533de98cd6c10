"""``python -m intake_idc`` is the command ``intake-idc``."""

from intake_idc.cli import main

if __name__ == "__main__":
    main()
