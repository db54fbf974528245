// A text and the tokens in it that the model wrote: values that are never changed, and functions that make new ones.
//
// A draft is { text, tokens }. A token is { start, end, name, logprob, top }: where it is in the text, what the API
// calls it, its log-probability, and those of the most likely tokens by their names.

export const EMPTY = { text: "", tokens: [] };

/** The draft after somebody edited its text. What follows the edit no longer has the probabilities that it had. */
export function edit(draft, text) {
  let same = 0;
  while (same < text.length && text[same] === draft.text[same]) same++;
  return { text, tokens: draft.tokens.filter((token) => token.end <= same) };
}

/** The draft with what the model wrote: its text, and its tokens with their offsets in characters (code points). */
export function append(draft, written, scored) {
  const starts = [draft.text.length];
  for (const character of written) starts.push(starts.at(-1) + character.length);
  const text = draft.text + written;
  const place = (index) => starts[scored[index]?.offset] ?? text.length;
  const tokens = scored.map((token, index) => ({ ...token, start: place(index), end: place(index + 1) }));
  return { text, tokens: [...draft.tokens, ...tokens.filter((token) => token.start < token.end)] };
}

/** The draft up to a token, which is replaced by an alternative. */
export function branch(draft, token, name) {
  const text = draft.text.slice(0, token.start) + name;
  const replaced = { ...token, name, logprob: token.top[name], end: text.length };
  return { text, tokens: [...draft.tokens.filter((other) => other.end <= token.start), replaced] };
}

/** Whether a token is whole characters, so that a text can contain it. */
export const isText = (name) => !name.startsWith("bytes:");

/** The token at a position: the one that goes on there, or at the end of the text the last one. */
export function tokenAt(draft, position) {
  return draft.tokens.find((token) => token.start <= position && position < token.end)
    ?? draft.tokens.find((token) => position === token.end && position === draft.text.length);
}

/** The scored tokens in a chunk of a streamed completion. */
export function readTokens(logprobs) {
  return (logprobs?.tokens ?? []).map((name, index) => ({
    name,
    logprob: logprobs.token_logprobs[index],
    top: logprobs.top_logprobs[index],
    offset: logprobs.text_offset[index],
  }));
}
