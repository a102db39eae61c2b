"""Recurrent processing of whole sequences, in one fused call of the LSTM."""

import torch as th
from torch import nn

LSTMStates = tuple[th.Tensor, ...]  # hidden and cell state


def process_sequence(
    features: th.Tensor,
    lstm_states: LSTMStates,
    episode_starts: th.Tensor,
    lstm: nn.LSTM,
) -> tuple[th.Tensor, LSTMStates]:
    """
    Run the LSTM over a batch of sequences; its state is zeroed wherever an episode starts.

    Equal to :meth:`RecurrentActorCriticPolicy._process_sequence` in outputs, states and gradients, with no loop over time.

    :param features: inputs, shape ``(n_seq * length, features_dim)``, sequence after sequence
    :param lstm_states: hidden and cell state before the first step, each ``(n_layers, n_seq, hidden_size)``
    :param episode_starts: 1 where a step is the first of its episode, shape ``(n_seq * length,)``
    :param lstm: the recurrent network
    :return: outputs ``(n_seq * length, hidden_size)`` and the states after the last step
    """
    n_seq = lstm_states[0].shape[1]
    if len(features) == n_seq and isinstance(lstm, nn.LSTM) and lstm.num_layers == 1:
        if bool(episode_starts.any()):
            keep = (1.0 - episode_starts).view(1, n_seq, 1)
            lstm_states = (keep * lstm_states[0], keep * lstm_states[1])
        return lstm_step(features, lstm_states, lstm)
    inputs = features.reshape(n_seq, -1, lstm.input_size)
    starts = episode_starts.reshape(n_seq, -1)
    keep = (1.0 - starts[:, 0]).view(1, n_seq, 1)
    initial_states = (keep * lstm_states[0], keep * lstm_states[1])
    if starts.shape[1] > 1 and bool(starts[:, 1:].any()):
        return _process_split(inputs, initial_states, starts, lstm)
    outputs, final_states = lstm(inputs.transpose(0, 1), initial_states)
    return outputs.transpose(0, 1).flatten(0, 1), final_states


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
    inputs: th.Tensor, initial_states: LSTMStates, starts: th.Tensor, lstm: nn.LSTM
) -> tuple[th.Tensor, LSTMStates]:
    """
    Cut the sequences at their inner episode starts, pad the pieces and run all of them in one call.

    :param inputs: shape ``(n_seq, length, features_dim)``
    :param initial_states: states at the first step of each sequence
    :param starts: 1 where an episode starts, shape ``(n_seq, length)``
    :param lstm: the recurrent network
    :return: as :func:`process_sequence`
    """
    n_seq, length = starts.shape
    begins = starts > 0.5
    begins[:, 0] = True
    sequence, begin = begins.nonzero(as_tuple=True)
    # The pieces lie one behind the other in the flat batch, so a piece ends where the next one begins.
    flat_begin = sequence * length + begin
    lengths = th.diff(flat_begin, append=flat_begin.new_tensor([n_seq * length]))
    longest = int(lengths.max())
    offsets = th.arange(longest, device=inputs.device)
    valid = offsets < lengths.unsqueeze(1)
    index = (flat_begin.unsqueeze(1) + offsets).clamp(max=n_seq * length - 1)
    pieces = inputs.flatten(0, 1)[index].transpose(0, 1)

    at_sequence_start = (begin == 0).view(1, -1, 1)
    states = tuple(th.where(at_sequence_start, state[:, sequence], 0.0) for state in initial_states)
    outputs, (hidden, cell) = lstm(pieces, states)

    last = th.cat([(sequence[1:] != sequence[:-1]).nonzero().flatten(), sequence.new_tensor([len(sequence) - 1])])
    if bool((lengths[last] == longest).all()):
        final_states = (hidden[:, last], cell[:, last])
    else:
        # The padded call ran past the end of the shorter pieces; only a packed one stops there.
        packed = nn.utils.rnn.pack_padded_sequence(pieces[:, last], lengths[last].cpu(), enforce_sorted=False)
        _, final_states = lstm(packed, (states[0][:, last], states[1][:, last]))
    return outputs.transpose(0, 1)[valid], final_states
