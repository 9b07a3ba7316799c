"""`python -m fsimformer`: the command line, which torchrun starts this way."""

import sys

from fsimformer.cli import main

sys.exit(main())
