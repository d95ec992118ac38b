"""`python3 -m auto_iscsi` is auto-iscsi."""

import sys

from auto_iscsi.admin.cli import main

if __name__ == "__main__":
    sys.exit(main())
