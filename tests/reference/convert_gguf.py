"""Writes a GGUF file as a folder that transformers reads, its quantised weights dequantised to f32.

    python tests/reference/convert_gguf.py FILE.gguf FOLDER

transformers does the reading: the folder is what the file is compared with.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM


def main():
    file, folder = Path(sys.argv[1]), Path(sys.argv[2])
    source = dict(pretrained_model_name_or_path=file.parent, gguf_file=file.name)
    quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # The weights are dequantised by now, but the config still calls them quantised, and could not be saved.
    config = quantised.config
    del config.quantization_config
    model = LlamaForCausalLM(config).float()
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    print(f"{folder}: {sum(parameter.numel() for parameter in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
