"""The rows of the tile store in Postgres, and an embedded Postgres server.

tile_store         the port TileMetadataStore
connection         one database: connection and errors
schema             applies the migrations in `sql/`
rows               table rows to records and back
upsert             inserts and updates tiles
embedded           starts, shares and stops the embedded server
embedded_process   its cluster and its server process
embedded_location  its user, data folder and programs
"""
