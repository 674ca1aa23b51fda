# Slipway's dashboard in a container: non-root, no compiler, read-only root file system.
#   docker build -t slipway .
#   docker run --read-only --tmpfs /tmp -p 127.0.0.1:8501:8501 -v slipway:/state slipway
# Two stages, so that neither uv nor its cache reach the image that runs.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /app
COPY pyproject.toml uv.lock README.md LICENSE ./
# The lock decides every version. Without the project itself, this layer changes only with the lock.
RUN python3 -m pip install --quiet --no-cache-dir --target /opt/uv uv==0.13.9 \
    && /opt/uv/bin/uv sync --quiet --frozen --no-dev --no-install-project \
        --extra dashboard --extra local --python "$(command -v python3)" \
    && rm -rf /root/.cache

FROM ${PYTHON_IMAGE}
RUN (useradd --uid 10001 --no-create-home --home-dir /state --shell /usr/sbin/nologin slipway \
        || adduser -D -u 10001 -h /state slipway) \
    && mkdir -p /state && chown 10001:10001 /state
WORKDIR /app
COPY --from=build /app/.venv /app/.venv
COPY dashboard ./dashboard
COPY pages ./pages
COPY services ./services
COPY .streamlit ./.streamlit
COPY pyproject.toml ./
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/state \
    SLIPWAY_STATE_DIR=/state
USER 10001
VOLUME /state
EXPOSE 8501
# Streamlit's own health answer; the interpreter that is there anyway asks for it.
HEALTHCHECK --interval=15s --timeout=4s --start-period=40s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=3)"]
CMD ["python3", "-m", "streamlit", "run", "dashboard/app.py", "--server.address=0.0.0.0", "--server.port=8501", "--server.headless=true"]
