# docdb-stream for AWS Batch, Fargate, ECS or Kubernetes: any command, as in
#   docker build -t docdb-stream . && docker run --rm -e DOCUMENTDB_URI=... docdb-stream run --follow
# SIGTERM ends it in order: a last checkpoint, then exit code 0. Give it more than 10 s for that (stopTimeout).
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE MANIFEST.in ./
COPY docdb_stream docdb_stream
COPY targets targets
COPY handlers handlers
# What is left out with EXTRAS=all is what only tables need: pyarrow alone has 150 MB.
ARG EXTRAS=all,parquet,postgresql
RUN python -m venv /opt/docdb-stream \
 && /opt/docdb-stream/bin/pip install --no-cache-dir --disable-pip-version-check ".[${EXTRAS}]" \
 && find /opt/docdb-stream -depth -type d \( -name tests -o -name __pycache__ \) -exec rm -rf {} + \
 && rm -rf /opt/docdb-stream/lib/python*/site-packages/pip* /opt/docdb-stream/lib/python*/site-packages/pyarrow/include

FROM python:3.12-slim
COPY --from=build /opt/docdb-stream /opt/docdb-stream
ENV PATH=/opt/docdb-stream/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# No name is needed for a user that owns nothing; temporary files go to /tmp.
USER 10001:10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
ENTRYPOINT ["docdb-stream"]
CMD ["--help"]
