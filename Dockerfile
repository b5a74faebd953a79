# The study of LoRA in a container, compared with the committed record: docker build -t llgbm . && docker run --rm llgbm
FROM python:3.12-slim
ENV PYTHONHASHSEED=0 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 CUDA_VISIBLE_DEVICES="" PIP_NO_CACHE_DIR=1
WORKDIR /llgbm
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY llgbm llgbm
COPY configs configs
COPY docs/lora_micro.json docs/lora_micro.json
RUN pip install --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' constraints.txt)" \
    && pip install --constraint constraints.txt .
ENTRYPOINT ["llgbm"]
CMD ["reproduce", "lora", "--base", "micro", "--runs", "4", "--against", "docs/lora_micro.json", "--or_incomparable"]
