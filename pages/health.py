"""Registry, target and store: whether each works, and what to do if not."""

import streamlit as st

from dashboard import widgets, wiring, words
from services.domain import Verdict

with widgets.errors_shown():
    checks = wiring.checks()
    found = [finding for look in checks.values() for finding in look.value or ()]
    awaited = any(look.waiting for look in checks.values())
    failed = sum(finding.verdict is Verdict.FAIL for finding in found)
    with st.container(horizontal=True, vertical_alignment="center"):
        if failed:
            widgets.headline(f"{failed} of {len(found)} checks failed.")
        else:
            widgets.headline(f"Everything checked works: {words.findings_sentence(found)}.")
        st.button("Run all checks", key="run_checks", type="primary", on_click=wiring.forget_reads)
    if awaited:
        st.caption("Some checks are still running.")
    for name, look in checks.items():
        widgets.section(name.capitalize())
        with st.container(border=True):
            results = widgets.looked(look, f"checks of {name}")
            if results is not None:
                widgets.findings(results)
                widgets.when(look.at, "Checked ")
