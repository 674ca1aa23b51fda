"""The browser's entrypoint: `streamlit run dashboard/app.py`. Frame, target, navigation."""

from pathlib import Path

import streamlit as st

from dashboard import widgets
from dashboard.widgets import PAGES

ASSETS = Path(__file__).parent / "assets"

st.set_page_config(page_title="Slipway", page_icon=str(ASSETS / "mark.svg"), layout="wide")
st.html(ASSETS / "app.css")
st.logo(str(ASSETS / "logo.svg"), icon_image=str(ASSETS / "logo.svg"), size="large")

page = st.navigation(
    [
        st.Page(PAGES / f"{name}.py", title=name.capitalize(), default=name == "overview")
        for name in ("overview", "models", "deploy", "endpoints", "predict", "activity", "health")
        if (PAGES / f"{name}.py").is_file()
    ],
    position="top",
)

with widgets.errors_shown():
    widgets.begin_run()
    widgets.place_line()
    page.run()
    widgets.wake_when_answered()
