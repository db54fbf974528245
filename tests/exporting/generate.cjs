// Greedy tokens by transformers.js, for test_onnx.py: FOLDER NAME and the ids of a prompt → one JSON line.
const { AutoModelForCausalLM, AutoTokenizer, Tensor, env } = require('@huggingface/transformers');

async function main(folder, name, prompt, count, text) {
  env.allowRemoteModels = false;
  env.localModelPath = folder;
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const model = await AutoModelForCausalLM.from_pretrained(name); // the precision is that of config.json
  const ids = prompt.split(',').map(BigInt);
  const input_ids = new Tensor('int64', BigInt64Array.from(ids), [1, ids.length]);
  const limits = { max_new_tokens: Number(count), min_new_tokens: Number(count), do_sample: false };
  const output = await model.generate({ input_ids, ...limits });
  console.log(JSON.stringify({ ids: output.tolist()[0].map(Number), text: tokenizer.encode(text) }));
}

main(...process.argv.slice(2));
