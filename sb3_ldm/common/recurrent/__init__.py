"""Recurrent policies and algorithms that process whole sequences in fused calls."""

from sb3_ldm.common.recurrent.buffers import SequenceRolloutBuffer
from sb3_ldm.common.recurrent.export import PolicyStep, export_onnx
from sb3_ldm.common.recurrent.policies import MetaLstmPolicy
from sb3_ldm.common.recurrent.sequence_ppo import SequencePPO
from sb3_ldm.common.recurrent.sequences import lstm_step, process_sequence

__all__ = [
    "MetaLstmPolicy",
    "PolicyStep",
    "SequencePPO",
    "SequenceRolloutBuffer",
    "export_onnx",
    "lstm_step",
    "process_sequence",
]
