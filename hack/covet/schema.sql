-- What covet keeps. Applied by whoever sets the database up, before the first release.
CREATE TABLE IF NOT EXISTS items (id integer PRIMARY KEY, name text NOT NULL, stock integer NOT NULL);
CREATE TABLE IF NOT EXISTS orders (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  item_id integer NOT NULL REFERENCES items,
  placed_at timestamptz NOT NULL DEFAULT now(),
  shipped_at timestamptz
);
INSERT INTO items SELECT n, 'item ' || n, 1000000 FROM generate_series(1, 100) AS n ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS reviews (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL)
  WITH (parallel_workers = 0);  -- a search of them takes one processor and leaves the others to the rest
