# Slipway's dashboard and command line in a container: non-root, no compiler, read-only root file
# system.
#   docker build -t slipway .
#   docker run --read-only --tmpfs /tmp -p 127.0.0.1:8501:8501 -v slipway:/state slipway
# deploy/ runs it in a cluster. For target `local` and the demo inside the container, add
#   --build-arg EXTRAS="dashboard local"
# Two stages, so that neither uv nor its cache reach the image that runs.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
RUN python3 -m pip install --quiet --no-cache-dir --target /opt/uv uv==0.13.9
WORKDIR /app
# The lock decides every version. Without the project itself, the layers below change only with it.
COPY pyproject.toml uv.lock ./
ARG EXTRAS=dashboard
# Bytecode is written here because nothing can be written where it runs, and without it each start
# compiles all of MLflow. The packages' own tests and headers are no use to anybody there.
RUN /opt/uv/bin/uv sync --quiet --frozen --no-dev --no-install-project --no-cache \
        --compile-bytecode --python "$(command -v python3)" \
        $(for extra in ${EXTRAS}; do printf -- '--extra %s ' "$extra"; done) \
    && cd .venv/lib/python3*/site-packages \
    && rm -rf pyarrow/include pyarrow/tests \
    && find numpy pandas scipy sklearn matplotlib -type d -name tests -prune -exec rm -rf {} +

FROM ${PYTHON_IMAGE}
RUN (useradd --uid 10001 --no-create-home --home-dir /state --shell /usr/sbin/nologin slipway \
        || adduser -D -u 10001 -h /state slipway) \
    && mkdir -p /state && chown 10001:10001 /state
WORKDIR /app
COPY --from=build /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/state \
    SLIPWAY_STATE_DIR=/state
# `docker run slipway slipway models`: the command line, in the same image. Made by hand because the
# project itself is not installed: it is read where it lies.
RUN printf '#!/bin/sh\nexec python3 -m dashboard "$@"\n' > /usr/local/bin/slipway \
    && chmod 755 /usr/local/bin/slipway
COPY pyproject.toml LICENSE ./
COPY .streamlit ./.streamlit
COPY services ./services
COPY dashboard ./dashboard
COPY pages ./pages
# Our own bytecode as well, for the same reason.
RUN python3 -m compileall -q services dashboard pages
USER 10001
VOLUME /state
EXPOSE 8501
# Streamlit's own health answer; the interpreter that is there anyway asks for it.
HEALTHCHECK --interval=15s --timeout=4s --start-period=40s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=3)"]
CMD ["python3", "-m", "streamlit", "run", "dashboard/app.py", "--server.address=0.0.0.0", "--server.port=8501", "--server.headless=true"]
