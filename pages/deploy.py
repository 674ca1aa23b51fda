"""Put one model version live on the chosen target."""

import streamlit as st

from dashboard import operations, options, versions, widgets, wiring

with widgets.errors_shown(), st.container(width=900):
    title = st.empty()
    version = versions.version_picker()
    if version is None:
        with title:
            widgets.headline("Choose what to deploy.")
    else:
        name = options.service_name(version.ref.model)
        with title:
            widgets.headline(f"Deploy {version.ref} to {wiring.target()} as {name}.")
        chosen = options.chosen(version, name)
        look = wiring.prepared_deploy(
            str(version.ref), name, chosen.wish, take_over=operations.consented(name)
        )
        widgets.section("Plan")
        made = widgets.looked(look, "the plan")
        if made is not None and made.plan.nothing_to_do:
            operations.nothing_to_do(made.plan)
        elif made is not None:
            operations.plan_shown(made, look.at)
            operations.consent(made)
            breaking = versions.differences_to_live(made)
            agreed = not breaking or st.checkbox(
                "Callers of the present version will break, and I want that.", key="agree"
            )
            blocked = "" if agreed else "The box above is not ticked."
            operations.confirm(made, alias=chosen.alias, undo=chosen.undo, blocked=blocked)
        operations.rollout_panel(name, titled=True)
