// The network of book/playground.md, which playground.js draws: initial values, synchronisation,
// training, all in double precision.
//
// The page makes a worker of the text of these two functions, so that it starts from file:// too.
// So they use nothing from outside.
"use strict";

function mathematics() {
  const SIZES = [64, 32, 16, 10];
  const BATCH = 32;

  // -- random numbers -----------------------------------------------------------------------------

  // Numbers in [0, 1), the same for the same seed and stream: xorshift (Marsaglia, "Xorshift RNGs",
  // 2003) with the shifts 13, 17, 5.
  function randomNumbers(seed, stream) {
    let state = Math.imul(2 * seed + 1, 0x9e3779b1) ^ Math.imul(stream + 1, 0x85ebca6b) || 1;
    const next = () => {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      return (state >>> 0) / 2 ** 32;
    };
    for (let i = 0; i < 20; i++) next(); // neighbouring seeds part
    return next;
  }

  // In place (Fisher and Yates).
  function shuffle(array, random) {
    for (let i = array.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [array[i], array[j]] = [array[j], array[i]];
    }
    return array;
  }

  // -- initial values -----------------------------------------------------------------------------

  // One weight vector of n values. He et al. (2015) give it the standard deviation sqrt(2 / n).
  const STARTS = {
    uniform: (n, random) => vector(n, () => Math.sqrt(6 / n) * (2 * random() - 1)),
    // Box and Muller (1958): sqrt(-2 ln u) cos(2 pi u').
    normal: (n, random) => vector(n, () => Math.sqrt(2 / n)
      * Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())),
    even: (n, random) => shuffle(
      vector(n, (i) => Math.sqrt(6 / n) * (2 * i / (n - 1) - 1)), random),
    two: (n, random) => shuffle(vector(n, (i) => (i < n / 2 ? -1 : 1) * Math.sqrt(2 / n)), random),
    one: (n, random) => shuffle(vector(n, (i) => (i < n / 2 ? 0 : 1) * Math.sqrt(2 / n)), random),
  };

  function vector(n, value) {
    return Float64Array.from({ length: n }, (_, i) => value(i));
  }

  // -- synchronisation ----------------------------------------------------------------------------

  // argsort(w), ties by index: sorting is stable, and -0 - +0 is 0, a tie.
  function sortOrder(w) {
    return Array.from(w.keys()).sort((i, j) => w[i] - w[j]);
  }

  // w_new[argsort(w)] = sort(w_0), and zeros of both signs by index.
  function reconnect(w, sorted) {
    const next = w.slice();
    sortOrder(w).forEach((place, rank) => { next[place] = sorted[rank]; });
    const zeros = sorted.filter((value) => value === 0);
    let given = 0;
    return next.map((value) => (value === 0 ? zeros[given++] : value));
  }

  // What is kept of a weight vector's initial values w_0, and the nearest vector to w that is made
  // of it; laperm_lib/synchronisation/projections.py does the same, bit for bit.
  const METHODS = {
    laperm: { keep: (w0) => Float64Array.from(sortOrder(w0), (i) => w0[i]), nearest: reconnect },
    signs: {
      keep: (w0) => w0.map(Math.abs),
      nearest: (w, kept) => w.map((value, i) => (value < 0 && kept[i] !== 0 ? -kept[i] : kept[i])),
    },
    masks: {
      keep: (w0) => w0.slice(),
      nearest: (w, kept) => w.map((value, i) =>
        (kept[i] === 0 || 2 * (kept[i] < 0 ? -value : value) >= Math.abs(kept[i]) ? kept[i] : 0)),
    },
    adam: { keep: (w0) => w0.slice(), nearest: (w) => w.slice() },
  };

  // -- training -----------------------------------------------------------------------------------

  // For each image its 64 grey levels of 0 to 16, in base 17, and what it shows.
  function decode(text) {
    const images = text.match(/.{65}/g);
    const x = images.flatMap((image) => [...image.slice(0, 64)].map((c) => parseInt(c, 17) / 16));
    return { x: Float64Array.from(x), y: images.map((image) => Number(image[64])) };
  }

  // A kernel holds one weight vector, the weights into one neuron, after the other.
  class Layer {
    constructor(inputs, outputs, initial) {
      Object.assign(this, { inputs, outputs });
      this.kernel = new Float64Array(inputs * outputs);
      for (let n = 0; n < outputs; n++) this.kernel.set(initial(inputs), n * inputs);
      this.bias = new Float64Array(outputs);
      this.trained = [this.kernel, this.bias].map((values) => ({
        values, gradient: values.map(() => 0), m: values.map(() => 0), v: values.map(() => 0),
      }));
    }

    // A function of each weight vector, and of the same part of other kernels.
    mapVectors(change, kernel, ...others) {
      const next = kernel.slice();
      for (let at = 0; at < next.length; at += this.inputs) {
        const part = (each) => each.subarray(at, at + this.inputs);
        next.set(change(part(kernel), ...others.map(part)), at);
      }
      return next;
    }
  }

  class Training {
    // choice: method, k, rate, start, seed. digits: x, 64 grey levels from 0 to 1 of each image; y,
    // what it shows. Every fifth image is held out, as in laperm_lib.
    constructor(choice, digits) {
      this.choice = choice;
      this.method = METHODS[choice.method];
      this.digits = digits;
      const random = randomNumbers(choice.seed, 0);
      const initial = (n) => STARTS[choice.start](n, random);
      this.layers = SIZES.slice(1).map((outputs, i) => new Layer(SIZES[i], outputs, initial));
      this.initial = this.layers.map((layer) => layer.kernel.slice());
      this.kept = this.layers.map((layer) => layer.mapVectors(this.method.keep, layer.kernel));
      this.activations = SIZES.map((size) => new Float64Array(size));
      const images = [...digits.y.keys()];
      this.trainImages = images.filter((i) => i % 5 !== 0);
      this.heldOut = images.filter((i) => i % 5 === 0);
      this.order = randomNumbers(choice.seed, 1);
      this.queue = [];
      this.steps = 0;
    }

    // The next images, in a new random order whenever fewer than a batch are left.
    nextBatch() {
      if (this.queue.length < BATCH) this.queue = shuffle(this.trainImages.slice(), this.order);
      return this.queue.splice(0, BATCH);
    }

    // One step of Adam on a batch; after every k of them, a synchronisation.
    step(batch = this.nextBatch()) {
      this.addGradients(batch);
      this.steps += 1;
      this.adam();
      if (this.steps % this.choice.k === 0) {
        this.synchronised().forEach((kernel, i) => this.layers[i].kernel.set(kernel));
      }
    }

    // The kernels as a synchronisation would leave them now.
    synchronised() {
      return this.layers.map(
        (layer, i) => layer.mapVectors(this.method.nearest, layer.kernel, this.kept[i]));
    }

    // a_0 = x, a_l = relu(W_l a_(l-1) + b_l), without relu in the last layer.
    forward(image, kernels = this.layers.map((layer) => layer.kernel)) {
      this.activations[0].set(this.digits.x.subarray(64 * image, 64 * image + 64));
      this.layers.forEach(({ inputs, outputs, bias }, l) => {
        const [from, to, kernel] = [this.activations[l], this.activations[l + 1], kernels[l]];
        const isLast = l === this.layers.length - 1;
        for (let n = 0; n < outputs; n++) {
          let sum = bias[n];
          for (let i = 0; i < inputs; i++) sum += kernel[n * inputs + i] * from[i];
          to[n] = isLast ? sum : Math.max(sum, 0);
        }
      });
      return this.activations.at(-1);
    }

    // The loss is the mean of -log softmax(a_3)[y]. Its gradient, d for each neuron's sum:
    // d_3 = (softmax(a_3) - onehot(y)) / batch, d_(l-1) = W_l' d_l where a_(l-1) > 0;
    // for W_l it is d_l a_(l-1)', for b_l it is d_l.
    addGradients(batch) {
      for (const image of batch) {
        const logits = this.forward(image);
        const most = Math.max(...logits);
        const powers = logits.map((value) => Math.exp(value - most));
        const sum = powers.reduce((a, b) => a + b);
        let d = powers.map((power, n) =>
          (power / sum - (n === this.digits.y[image] ? 1 : 0)) / batch.length);
        for (let l = this.layers.length - 1; l >= 0; l--) {
          const { inputs, outputs, kernel, trained } = this.layers[l];
          const from = this.activations[l];
          const [forKernel, forBias] = trained.map(({ gradient }) => gradient);
          const below = new Float64Array(inputs);
          for (let n = 0; n < outputs; n++) {
            forBias[n] += d[n];
            for (let i = 0; i < inputs; i++) {
              forKernel[n * inputs + i] += d[n] * from[i];
              if (from[i] > 0) below[i] += d[n] * kernel[n * inputs + i];
            }
          }
          d = below;
        }
      }
    }

    // Kingma and Ba (2015), with Keras's constants:
    // m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2,
    // w <- w - rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + 1e-7).
    adam() {
      const [b1, b2, t] = [0.9, 0.999, this.steps];
      const rate = (this.choice.rate * Math.sqrt(1 - b2 ** t)) / (1 - b1 ** t);
      for (const { values, gradient, m, v } of this.layers.flatMap((layer) => layer.trained)) {
        for (let i = 0; i < values.length; i++) {
          m[i] += (1 - b1) * (gradient[i] - m[i]);
          v[i] += (1 - b2) * (gradient[i] ** 2 - v[i]);
          values[i] -= (rate * m[i]) / (Math.sqrt(v[i]) + 1e-7);
        }
        gradient.fill(0);
      }
    }

    // The share of images that the network is right about, with these kernels.
    accuracy(images, kernels) {
      const isRight = (image) => {
        const logits = this.forward(image, kernels);
        return logits.indexOf(Math.max(...logits)) === this.digits.y[image];
      };
      return images.filter(isRight).length / images.length;
    }
  }

  // -- what is shown ------------------------------------------------------------------------------

  // How far each value of a weight vector has moved over the 8 x 8 pixels, from where the value of
  // its rank was at first; and for methods that move none, by how much the weight has changed.
  function travel(method, w0, w) {
    if (method !== "laperm") return w.map((value, i) => Math.abs(value - w0[i]));
    const [from, distance] = [sortOrder(w0), w.slice()];
    sortOrder(w).forEach((to, rank) => {
      const [x, y] = [to % 8 - from[rank] % 8, Math.floor(to / 8) - Math.floor(from[rank] / 8)];
      distance[to] = Math.hypot(x, y);
    });
    return distance;
  }

  // Which values of a weight vector are there more often than at first: 1 for them, 0 for others.
  function areNew(w0, w) {
    const left = new Map();
    w0.forEach((value) => left.set(value, (left.get(value) ?? 0) + 1));
    return w.map((value) => {
      const count = left.get(value) ?? 0;
      left.set(value, count - 1);
      return count > 0 ? 0 : 1;
    });
  }

  // The network as a synchronisation would leave it now, which is what a training that ends here
  // gives; the pictures are of its first layer.
  function frame(training) {
    const kernels = training.synchronised();
    const { choice, initial, layers, steps, trainImages, heldOut } = training;
    const isNew = layers.map((layer, l) => layer.mapVectors(areNew, initial[l], kernels[l]));
    const travelled = (kernel) => layers[0].mapVectors(
      (w0, w) => travel(choice.method, w0, w), initial[0], kernel);
    const random = randomNumbers(choice.seed, 2);
    return {
      steps,
      newValues: isNew.flatMap((each) => [...each]),
      initial: initial[0],
      weights: kernels[0],
      travel: travelled(kernels[0]),
      travelByChance: travelled(layers[0].mapVectors(
        (w0) => shuffle(w0.slice(), random), initial[0])),
      accuracy: [trainImages, heldOut].map((images) => training.accuracy(images, kernels)),
    };
  }

  return { METHODS, Training, decode, frame };
}

// Answers { choice } with the frame of a new training, and { steps } with that after so many more.
function work({ Training, decode, frame }) {
  let digits, training;
  self.onmessage = ({ data: { run, images, choice, steps } }) => {
    digits ??= decode(images);
    if (choice) training = new Training(choice, digits);
    for (let i = 0; i < steps; i++) training.step();
    self.postMessage({ run, ...frame(training) });
  };
}
