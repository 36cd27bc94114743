"""Words that the worker writes into traces and logs, and that their readers look for."""

SCOPE = "module "  # before a module's name in a trace
PASS = "pass"  # the scope of one whole inference, and oneDNN's line before it
END = "end"
