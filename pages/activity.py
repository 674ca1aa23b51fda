"""The audit: who did what to which service, when, why, and how it came out."""

import streamlit as st

from dashboard import widgets, wiring, words
from services.domain import Action, Outcome

SHOWN = 2_000

with widgets.errors_shown():
    seen = wiring.entries(SHOWN)
    everything = seen.value or ()
    widgets.headline(
        f"{words.counted(len(everything), 'change')} on record." if everything else "Activity"
    )
    widgets.looked(seen, "the audit log")
    if seen.value == ():
        with widgets.empty(
            "Nothing has been changed yet.",
            "Every deploy, roll-back, canary, stop and delete will stand here.",
        ):
            widgets.go("Choose a version to deploy", "models", key="choose", primary=True)
    elif everything:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            service = widgets.text_in_url("Service", key="service", width=220)
            action = widgets.choice(
                "Action",
                {action.value: words.ACTION_WORDS[action] for action in Action},
                name="action", width=220, placeholder="Any",
            )  # fmt: skip
            outcome = widgets.choice(
                "Outcome",
                {outcome.value: words.OUTCOME_WORDS[outcome] for outcome in Outcome},
                name="outcome", width=220, placeholder="Any",
            )  # fmt: skip
            entries = [
                entry
                for entry in everything
                if (not service or service.strip() in entry.service)
                and action in (None, entry.action.value)
                and outcome in (None, entry.outcome.value)
            ]
            st.download_button(
                "Download CSV",
                words.audit_csv(entries),
                file_name="slipway-activity.csv",
                mime="text/csv",
                key="export",
                on_click="ignore",
            )
        widgets.audit_table(entries, key="audit")
        st.caption("Choose a row to open its service.")
