"""Registry, target and store: whether each works, and what to do if not."""

import streamlit as st

from dashboard import operations, widgets, wiring, words

with widgets.errors_shown():
    checks = wiring.checks()
    found = [finding for look in checks.values() for finding in look.value or ()]
    with st.container(horizontal=True, vertical_alignment="center"):
        missing = {name: look for name, look in checks.items() if look.value is None}
        failed = [name for name, look in missing.items() if look.error is not None]
        checking = [name for name in missing if name not in failed]
        widgets.headline(words.health_sentence(found, checking, failed))
        st.button("Run all checks", key="run_checks", type="primary", on_click=wiring.forget_reads)
    for name, look in checks.items():
        with st.container(border=True):
            with st.container(horizontal=True, vertical_alignment="center"):
                widgets.name_of(name.capitalize())
                widgets.when(look.at, "checked ")
                if look.waiting:
                    st.caption("checking…", width="content")
            results = widgets.looked(look, f"checks of {name}")
            if results is not None:
                widgets.findings(results)
    operations.clusters_offered()
