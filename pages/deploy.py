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
        if chosen.wish.canary_percent is not None:
            with title:
                share = f"{chosen.wish.canary_percent} % of {name}"
                widgets.headline(f"Deploy {version.ref} to {wiring.target()} as {share}.")
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
            blocked = operations.callers_agreed(made)
            operations.confirm(made, alias=chosen.alias, undo=chosen.undo, blocked=blocked)
        operations.rollout_panel(name, titled=True)
