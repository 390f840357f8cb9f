"""The verbs of the command line, one file a family. A file imports click and the options; what a verb
needs beyond that is imported when it runs, so that `--help` answers at once."""
