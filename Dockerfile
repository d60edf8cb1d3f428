# syntax=docker/dockerfile:1
#   docker build -t paramedic:0.1.0 .
# Two stages of the same Python: the first has pip and builds, the second has an interpreter and what was installed.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG HATCHLING=1.33.0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
# Without pip: nothing in the image can install anything.
RUN python -m venv --without-pip /opt/paramedic
WORKDIR /src
# The dependencies first: this layer changes only with the lock.
COPY requirements.lock ./
RUN pip --python /opt/paramedic/bin/python install --no-compile --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY operator ./operator
RUN pip install "hatchling==${HATCHLING}" \
 && pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip --python /opt/paramedic/bin/python install --no-compile --no-deps --no-index /wheels/paramedic-*.whl
# The file system is read-only later, so all bytecode is made now; unchecked, for nothing there changes.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/paramedic/lib

FROM python:${PYTHON}-slim
# pg_dump, for captureEvidence: databaseDump. It dumps servers of its own major version and older ones.
ARG POSTGRES_CLIENT=17
RUN apt-get update \
 && apt-get install --yes --no-install-recommends "postgresql-client-${POSTGRES_CLIENT}" \
 && rm -rf /var/lib/apt/lists/*
# The base image's own pip is not needed at run time.
RUN rm -rf /usr/local/lib/python3*/site-packages/* /usr/local/lib/python3*/ensurepip /usr/local/bin/pip*
COPY --from=build /opt/paramedic /opt/paramedic
ENV PATH=/opt/paramedic/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /tmp
EXPOSE 8080
ENTRYPOINT ["paramedic", "run"]
