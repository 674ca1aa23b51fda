"""The registered models: find a version, see what it is, compare two, take one to Deploy."""

import streamlit as st

from dashboard import versions, widgets, wiring, words

with widgets.errors_shown():
    seen = wiring.models()
    models = seen.value or ()
    serving = words.serving_by_version(
        {name: look.value or () for name, look in wiring.everywhere().items()}
    )
    count = words.counted(len(models), "registered model")
    widgets.headline(f"{count} in the registry." if models else "Registered models")
    widgets.looked(seen, "registered models")

    if seen.value == ():
        widgets.empty(
            "The registry has no models yet.",
            "Train and register a few real ones, or point MLFLOW_TRACKING_URI at your own server.",
            "slipway demo",
        )
    elif models:
        shares = [1, 2.4] if widgets.from_url("model") else [2.4, 1]
        left, right = st.columns(shares, gap="large")
        with left:
            chosen = versions.model_list(models, serving)
        with right:
            if chosen is None:
                st.caption("Tick the box before a registered model to see its versions.")
            else:
                versions.model_head(chosen)
                looked = widgets.looked(wiring.versions(chosen.name), f"versions of {chosen.name}")
                if looked == ():
                    st.text("It has no versions yet.")
                elif looked:
                    chosen_versions = versions.version_list(looked, serving)
                    if len(chosen_versions) == 2:
                        versions.comparison(*chosen_versions)
                    elif chosen_versions:
                        versions.version_page(chosen_versions[0], serving)
                    else:
                        st.caption("Tick one version to see it whole, two to compare them.")
