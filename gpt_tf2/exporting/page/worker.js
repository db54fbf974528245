// Runs the model with transformers.js, apart from the page, which would not answer meanwhile.

import {
  AutoModelForCausalLM, AutoTokenizer, InterruptableStoppingCriteria, Tensor, TextStreamer, env,
} from './lib/transformers.min.js';

const here = new URL('.', self.location.href).href;
const wasm = env.backends.onnx.wasm;
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = new URL(here).pathname;
env.useBrowserCache = false; // it would show an older model at the same address; the browser keeps files by itself
env.useWasmCache = false;
wasm.wasmPaths = { mjs: `${here}lib/ort.mjs`, wasm: `${here}lib/ort.wasm` };

const send = (kind, values = {}) => self.postMessage({ kind, ...values });
const stopping = new InterruptableStoppingCriteria();
let loaded; // the tokenizer and the model

async function load() {
  const began = performance.now();
  const config = await (await fetch('model/config.json')).json();
  // Graphs in int8 have operators that only the processor has.
  const canUseGpu = config['transformers.js_config'].dtype === 'fp32' && (await self.navigator.gpu?.requestAdapter());
  const device = canUseGpu ? 'webgpu' : 'wasm';
  const progress_callback = ({ status, file, loaded: done, total }) => {
    if (status === 'progress' && file.includes('onnx/')) send('loading', { share: done / total });
  };
  const [tokenizer, model] = await Promise.all([
    AutoTokenizer.from_pretrained('model'),
    AutoModelForCausalLM.from_pretrained('model', { device, progress_callback }),
  ]);
  const forward = model.forward.bind(model);
  model.forward = async (inputs) => {
    await new Promise((resolve) => setTimeout(resolve)); // else no message, such as to stop, arrives before the end
    return forward(inputs);
  };
  loaded = { tokenizer, model };
  send('ready', { device: canUseGpu ? 'the GPU' : 'the processor', seconds: (performance.now() - began) / 1000 });
}

async function write(prompt, [length, temperature, top_p]) {
  const { tokenizer, model } = loaded;
  const end = model.generation_config.eos_token_id;
  const encoded = tokenizer.encode(prompt);
  const ids = encoded.length ? encoded : [Array.isArray(end) ? end[0] : end]; // a new text follows the end of another
  const room = model.config.n_positions - ids.length;
  if (room < 1) {
    send('refused', { problem: `${ids.length} tokens, but the model reads ${model.config.n_positions}: shorten the prompt` });
    return;
  }
  let tokens = 0;
  let first; // when the first token was there: the prompt takes its own time
  const rate = () => (tokens > 1 ? (tokens - 1) / ((performance.now() - first) / 1000) : 0);
  const streamer = new TextStreamer(tokenizer, {
    skip_prompt: true,
    skip_special_tokens: true,
    callback_function: (piece) => send('piece', { piece }),
    token_callback_function: () => {
      first ??= performance.now();
      tokens += 1;
      if (tokens > 1) send('speed', { tokens, rate: rate() });
    },
  });
  stopping.reset();
  const output = await model.generate({
    input_ids: new Tensor('int64', BigInt64Array.from(ids, BigInt), [1, ids.length]),
    max_new_tokens: Math.min(length, room),
    do_sample: temperature > 0,
    ...(temperature > 0 ? { temperature, top_p, top_k: 0 } : {}),
    streamer,
    stopping_criteria: stopping,
  });
  const last = Number(output.tolist()[0].at(-1));
  const reason = stopping.interrupted ? 'stopped'
    : [end].flat().includes(last) ? 'the text ended'
    : tokens < length ? 'the context is full'
    : 'done';
  send('done', { tokens, rate: rate(), reason });
}

self.onmessage = async ({ data }) => {
  if (data.kind === 'stop') {
    stopping.interrupt();
    return;
  }
  try {
    await write(data.prompt, data.numbers);
  } catch (error) {
    send('refused', { problem: `the model failed: ${error.message ?? error}` });
  }
};

load().catch((error) => send('failed', { problem: `the model cannot be loaded: ${error.message ?? error}` }));
