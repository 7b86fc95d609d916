"""`python -m fanlight`: the command line."""

import sys

from fanlight.cli.main import main

sys.exit(main())
