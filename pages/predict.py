"""Send a test request to a service, time it, and lay versions over each other."""

import streamlit as st

from dashboard import trial, widgets, wiring

st.title("Predict", anchor=False)
with widgets.errors_shown():
    ops = wiring.ops()
    service = widgets.service_picker(ops)
    if service is not None and not trial.asks_for_start(service):
        left, right = st.columns(2, gap="large")
        with left:
            st.subheader("Request", anchor=False)
            request, releases = trial.request_form(service)
        with right:
            st.subheader("Answer", anchor=False)
            if request is not None:
                trial.send(ops, service, request, releases)
            trial.answers(service)
        st.subheader("Again, timed", anchor=False)
        trial.load_form(ops, service)
        trial.live(service)
        trial.stored_runs(ops, service)
