"""The two front doors, browser and terminal. Importing this package stays free of Streamlit."""
