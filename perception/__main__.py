"""`python -m perception` is the `perception` program."""

import sys

from perception.commands.main import main

sys.exit(main())
