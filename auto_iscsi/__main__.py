"""Run auto-iscsi as `python3 -m auto_iscsi`."""

import sys

from auto_iscsi.admin.cli import main

if __name__ == "__main__":
    sys.exit(main())
