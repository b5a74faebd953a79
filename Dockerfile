# The study of LoRA in a container, compared with the committed record: docker build -t llgbm . && docker run --rm llgbm
# For a Ray cluster with GPUs (examples/cluster/rayjob.yaml):
#   docker build --build-arg TORCH_INDEX=https://pypi.org/simple --build-arg PACKAGES='ray[default]' -t registry.example.com/llgbm .
FROM python:3.12-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu PACKAGES=""
ENV PYTHONHASHSEED=0 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 CUDA_VISIBLE_DEVICES="" PIP_NO_CACHE_DIR=1
WORKDIR /llgbm
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY llgbm llgbm
COPY configs configs
COPY docs/lora_micro.json docs/lora_micro.json
RUN pip install --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)" \
    && pip install --constraint constraints.txt . $PACKAGES
ENTRYPOINT ["llgbm"]
CMD ["reproduce", "lora", "--base", "micro", "--runs", "4", "--against", "docs/lora_micro.json", "--or_incomparable"]
