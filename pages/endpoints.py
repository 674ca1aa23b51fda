"""The services of the chosen target, and one of them opened: what is wanted, what answers."""

from dashboard import evidence, operations, widgets, wiring, words

with widgets.errors_shown():
    seen = wiring.listed()
    services = seen.value or ()
    opened = widgets.from_url("service")
    service = next((found for found in services if found.name == opened), None)

    if service is None:
        widgets.services_headline(seen)
    if opened and seen.value is None:
        widgets.name_of(f"Whether {opened} is there, and what it serves, cannot be told.")
    if seen.value is None or seen.error is not None:
        widgets.looked(seen, "services")
    if opened and service is None and seen.value is not None:
        service = wiring.remains(opened)
        if service is None:
            widgets.gone(opened, "service")
            evidence.history_table(opened)

    if service is not None:
        operations.head(service)
        operations.rollout_panel(service.name)
        operations.traffic(service)
        operations.actions(service)
        evidence.tabs(service)
    elif services:
        models = widgets.glanced(wiring.models(wait=False))
        aliases = words.aliases_by_version(models or ())
        widgets.service_table(
            words.service_rows(services, aliases), key="services", param="service"
        )
    elif seen.value == ():
        with widgets.empty(
            f"No service on {wiring.target()} yet.",
            "A service is a named thing that answers predictions. Deploying a version makes one.",
        ):
            widgets.go("Choose a version", "models", key="choose", primary=True)
    if not opened:
        widgets.refresh_services(services)
