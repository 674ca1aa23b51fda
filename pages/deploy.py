"""Put one model version live on the chosen target."""

import streamlit as st

from dashboard import operations, versions, widgets, wiring

with widgets.errors_shown(), st.container(width=900):
    widgets.headline("Deploy")
    version = versions.version_picker()
    if version is not None:
        name = operations.service_name(version.ref.model)
        wish = operations.wish(name)
        widgets.section("Plan")
        look = wiring.prepared_deploy(str(version.ref), name, wish)
        made = widgets.looked(look, "the plan")
        if made is not None and made.plan.nothing_to_do:
            st.info(
                f"Nothing to do: {name} is wanted to serve {widgets.literal(version.ref)} already.",
                icon=":material/check:",
            )
            widgets.go("Open the service", "endpoints", key="open", service=name)
        elif made is not None:
            breaking = versions.differences_to_live(made)
            operations.plan_shown(made, look.at)
            agreed = not breaking or st.checkbox(
                "Callers of the present version will break, and I want that.", key="agree"
            )
            operations.confirm(made, blocked="" if agreed else "The box above is not ticked.")
        widgets.section("Roll-out" if wiring.is_open(name) else "Last release")
        operations.rollout_panel(name)
