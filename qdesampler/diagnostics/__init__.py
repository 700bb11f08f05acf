"""ArviZ conversion, summaries, plots and reports; the only room that imports ArviZ."""
