import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "cuda_emulation"))  # the cases, shared with the host runner's tests
sys.path.append(str(Path(__file__).parents[1] / "dissection"))  # the tiny model
