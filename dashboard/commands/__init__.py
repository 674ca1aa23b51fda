"""The command line's verbs, each a function of the session that gives an Answer."""
