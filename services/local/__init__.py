"""Target `local`: services as real MLServer processes on this machine.

One supervisor process per service owns the service's stable address and keeps what runs equal to
what is wanted. The parts: `state` (what is wanted and seen, in files), `supervisor` and `runner`
(processes), `gateway` (the stable address, routing by weight), `environments` (the libraries that a
model needs), `packager` (the folder that a server loads) and `serving` (the ports, for everyone
else). Nothing here knows Streamlit, MLflow's registry or a cluster.
"""
