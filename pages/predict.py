"""Send a test request to a service, time it, and lay versions over each other."""

import streamlit as st

from dashboard import answers, asking, runs, trial, widgets, wiring

with widgets.errors_shown():
    widgets.headline("Predict")
    service = asking.service_picker()
    if service is not None:
        asking.other_load_tests(service)
        if not asking.asks_for_start(service):
            left, right = st.columns(2, gap="large")
            with left, widgets.errors_shown():
                widgets.section("Request")
                asked = asking.request_form(service)
                if asked is not None:
                    answers.send(wiring.ops(), service, asked)
            with right:
                widgets.section("Answer")
                answers.shown(service, refused=asking.refused(service))
                answers.again(wiring.ops(), service)
            widgets.section("Again, timed")
            with widgets.errors_shown():
                trial.load_form(wiring.ops(), service)
            trial.cold_start(wiring.ops(), service)
        trial.live(service)
        runs.stored(service)
