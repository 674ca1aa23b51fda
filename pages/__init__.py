"""One script per operator task; dashboard/app.py sets their order."""
