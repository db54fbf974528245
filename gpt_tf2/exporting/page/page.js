// The page: what is asked goes to a worker, and what that writes is shown.

const element = (id) => document.getElementById(id);
const [form, prompt, go, stop, loading, text, given, written] =
  ['form', 'prompt', 'go', 'stop', 'loading', 'text', 'given', 'written'].map(element);
const worker = new Worker('worker.js', { type: 'module' });

function say(line, isError = false) {
  element('status').textContent = line;
  element('status').classList.toggle('error', isError);
}

const count = (tokens, rate) =>
  `${tokens} ${tokens === 1 ? 'token' : 'tokens'}${rate ? ` · ${rate.toFixed(1)} tokens/s` : ''}`;

function setRunning(isRunning) {
  go.disabled = isRunning;
  stop.disabled = !isRunning;
}

const handlers = {
  loading({ share }) {
    loading.value = share;
  },
  ready({ device, seconds }) {
    loading.hidden = true;
    setRunning(false);
    say(`ready: runs on ${device}, loaded in ${seconds.toFixed(1)} s`);
  },
  piece({ piece }) {
    written.textContent += piece;
  },
  speed({ tokens, rate }) {
    say(count(tokens, rate));
  },
  done({ tokens, rate, reason }) {
    setRunning(false);
    say(`${count(tokens, rate)} · ${reason}`);
  },
  failed({ problem }) {
    loading.hidden = true;
    stop.disabled = true;
    say(problem, true);
  },
  refused({ problem }) {
    setRunning(false);
    say(problem, true);
  },
};

worker.onmessage = ({ data }) => handlers[data.kind](data);
worker.onerror = ({ message }) => handlers.failed({ problem: `the model cannot run: ${message}` });

form.addEventListener('submit', (event) => {
  event.preventDefault();
  if (go.disabled) return;
  setRunning(true);
  text.hidden = false;
  given.textContent = prompt.value;
  written.textContent = '';
  const numbers = ['length', 'temperature', 'top-p'].map((id) => element(id).valueAsNumber);
  worker.postMessage({ kind: 'write', prompt: prompt.value, numbers });
});

stop.addEventListener('click', () => worker.postMessage({ kind: 'stop' }));

document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') stop.click();
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
