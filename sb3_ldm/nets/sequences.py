"""Recurrent processing of whole sequences, in one fused call of the LSTM."""

import torch as th
from torch import nn

LSTMStates = tuple[th.Tensor, ...]  # hidden and cell state


def process_sequence(
    features: th.Tensor,
    lstm_states: LSTMStates,
    episode_starts: th.Tensor,
    lstm: nn.LSTM,
    need_states: bool = True,
) -> tuple[th.Tensor, LSTMStates]:
    """
    Run the LSTM over a batch of sequences; its state is zeroed wherever an episode starts.

    Equal to :meth:`RecurrentActorCriticPolicy._process_sequence` in outputs, states and gradients, with no loop over time.

    :param features: inputs, shape ``(n_seq * length, features_dim)``, sequence after sequence
    :param lstm_states: hidden and cell state before the first step, each ``(n_layers, n_seq, hidden_size)``
    :param episode_starts: 1 where a step is the first of its episode, shape ``(n_seq * length,)``
    :param lstm: the recurrent network
    :param need_states: whether the states after the last step are wanted, which take time where episodes start inside
    :return: outputs ``(n_seq * length, hidden_size)`` and the states after the last step, or any if they are not wanted
    """
    n_seq = lstm_states[0].shape[1]
    if features.shape[0] == n_seq and isinstance(lstm, nn.LSTM) and lstm.num_layers == 1 and lstm.proj_size == 0:
        # A step that is exported has no branch on values: it would reset its state always or never.
        if th.compiler.is_compiling() or th.jit.is_tracing() or bool(episode_starts.any()):
            keep = (1.0 - episode_starts).view(1, n_seq, 1)
            lstm_states = (keep * lstm_states[0], keep * lstm_states[1])
        return lstm_step(features, lstm_states, lstm)
    inputs = features.reshape(n_seq, -1, lstm.input_size)
    starts = episode_starts.reshape(n_seq, -1)
    keep = (1.0 - starts[:, 0]).view(1, n_seq, 1)
    initial_states = (keep * lstm_states[0], keep * lstm_states[1])
    if starts.shape[1] > 1 and bool(starts[:, 1:].any()):
        return _process_split(inputs, initial_states, starts, lstm, need_states)
    outputs, final_states = lstm(inputs.transpose(0, 1), initial_states)
    return outputs.transpose(0, 1).flatten(0, 1), final_states


def initialize_memories(lstm: nn.LSTM, longest: int) -> None:
    """
    Begin with units that remember for 2 to ``longest`` steps, instead of two or three: chrono initialization
    (Tallec and Ollivier, 2018).

    Biases of the forget gates are log u with u uniform in [1, ``longest`` - 1], those of the input gates their negatives, the
    other biases 0. A unit with the forget gate sigma(log u) keeps a share 1/e of what it knows for about u + 1 steps.

    :param lstm: the recurrent network, changed in place
    :param longest: number of steps, at least 3
    """
    for layer in range(lstm.num_layers):
        of_inputs, of_hidden = (getattr(lstm, f"bias_{source}_l{layer}") for source in ("ih", "hh"))
        remembered = th.log(th.empty_like(of_inputs[: lstm.hidden_size]).uniform_(1.0, longest - 1.0))
        with th.no_grad():
            of_inputs.zero_()
            of_hidden.zero_()
            input_gate, forget_gate, _, _ = of_inputs.chunk(4)
            forget_gate.copy_(remembered)
            input_gate.copy_(-remembered)


def lstm_step(inputs: th.Tensor, states: LSTMStates, lstm: nn.LSTM) -> tuple[th.Tensor, LSTMStates]:
    """
    One step of a one-layer LSTM, as a plain cell: what the call for many steps prepares would cost more than it brings.

    :param inputs: shape ``(n_seq, input_size)``
    :param states: hidden and cell state before the step, each ``(1, n_seq, hidden_size)``
    :param lstm: the recurrent network
    :return: output ``(n_seq, hidden_size)`` and the states after the step
    """
    hidden, cell = th.lstm_cell(inputs, (states[0][0], states[1][0]), *lstm.all_weights[0])
    return hidden, (hidden.unsqueeze(0), cell.unsqueeze(0))


def _process_split(
    inputs: th.Tensor, initial_states: LSTMStates, starts: th.Tensor, lstm: nn.LSTM, need_states: bool
) -> tuple[th.Tensor, LSTMStates]:
    """
    Cut the sequences at their inner episode starts, and run the pieces of about the same length in one padded call.

    :param inputs: shape ``(n_seq, length, features_dim)``
    :param initial_states: states at the first step of each sequence
    :param starts: 1 where an episode starts, shape ``(n_seq, length)``
    :param lstm: the recurrent network
    :param need_states: whether the states after the last step are wanted
    :return: as :func:`process_sequence`
    """
    n_seq, length = starts.shape
    begins = starts > 0.5
    begins[:, 0] = True
    sequence, begin = begins.nonzero(as_tuple=True)
    # The pieces lie one behind the other in the flat batch, so a piece ends where the next one begins.
    flat_begin = sequence * length + begin
    lengths = th.diff(flat_begin, append=flat_begin.new_tensor([n_seq * length]))
    flat_inputs = inputs.flatten(0, 1)
    at_sequence_start = (begin == 0).view(1, -1, 1)
    states = tuple(th.where(at_sequence_start, state[:, sequence], 0.0) for state in initial_states)

    outputs, places = [], []
    # Lengths of a group are at most twice as different, so that at most half of a call is padding.
    group_of = th.log2(lengths.float()).ceil()
    for group in group_of.unique():
        members = (group_of == group).nonzero().flatten()
        offsets = th.arange(int(lengths[members].max()), device=inputs.device)
        valid = offsets < lengths[members].unsqueeze(1)
        index = (flat_begin[members].unsqueeze(1) + offsets).clamp(max=n_seq * length - 1)
        output, _ = lstm(flat_inputs[index.T], tuple(state[:, members] for state in states))
        outputs.append(output.transpose(0, 1)[valid])
        places.append(index[valid])
    ordered = th.cat(outputs)[th.cat(places).argsort()]
    return ordered, _last_states(flat_inputs, states, sequence, flat_begin, lengths, lstm) if need_states else initial_states


def _last_states(
    inputs: th.Tensor, states: LSTMStates, sequence: th.Tensor, flat_begin: th.Tensor, lengths: th.Tensor, lstm: nn.LSTM
) -> LSTMStates:
    """
    States after the last piece of each sequence.

    :param inputs: shape ``(n_seq * length, features_dim)``
    :param states: states before the pieces
    :param sequence: the sequence that each piece is of
    :param flat_begin: where each piece begins
    :param lengths: lengths of the pieces
    :param lstm: the recurrent network
    :return: hidden and cell state, each ``(n_layers, n_seq, hidden_size)``
    """
    last = th.cat([(sequence[1:] != sequence[:-1]).nonzero().flatten(), sequence.new_tensor([len(sequence) - 1])])
    # Padded calls run past the end of the shorter pieces; only a packed one stops there.
    pieces = [inputs[begin : begin + length] for begin, length in zip(flat_begin[last], lengths[last], strict=True)]
    packed = nn.utils.rnn.pack_sequence(pieces, enforce_sorted=False)
    return lstm(packed, (states[0][:, last], states[1][:, last]))[1]
