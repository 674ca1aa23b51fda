"""What serves where, what needs somebody, what changed lately."""

import streamlit as st

from dashboard import widgets, wiring, words

LATELY = 8

with widgets.errors_shown():
    seen = wiring.listed()
    services = seen.value
    widgets.services_headline(seen)
    widgets.looked(seen, "services")

    for service in services or ():
        if words.trouble(service):
            with st.container(border=True):
                state, said, way = st.columns([1, 6, 1], vertical_alignment="center")
                with state:
                    widgets.phase_badge(service)
                said.text(f"{service.name}: {words.trouble(service)}")
                with way, st.container(horizontal_alignment="right"):
                    widgets.go(
                        "Look at it", "endpoints", key=f"see-{service.name}", service=service.name
                    )

    if services:
        models = widgets.glanced(wiring.models(wait=False))
        aliases = words.aliases_by_version(models or ())
        widgets.service_table(words.service_rows(services, aliases), key="services", param="open")
        opened = widgets.from_url("open")
        if any(service.name == opened for service in services):
            widgets.open_page("endpoints", service=opened)
    elif services is not None:
        widgets.first_steps(wiring.models())

    lately = wiring.entries(LATELY, here_only=True)
    widgets.section("Changed lately")
    entries = widgets.looked(lately, "the audit log")
    if entries == ():
        st.caption("Nothing yet. Every change will stand here, with who and why.")
    elif entries:
        widgets.audit_table(entries, key="lately")

    widgets.refresh_services(services or ())
