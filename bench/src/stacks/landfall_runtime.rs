//! Landfall's runtime: a task a connection, run by whichever worker is free.

use std::net::TcpListener;

use anyhow::Result;
use landfall::Server;

use super::Expected;
use crate::protocol::attend;

pub fn serve(listener: TcpListener, expected: Expected) -> Result<()> {
    Server::from_std(listener)?
        .concurrency(expected.workers)
        .serve(|mut connection| async move {
            while let Some(message) = connection.receive().await? {
                attend(&message);
                connection.send(message).await?;
            }
            Ok(())
        })?;
    Ok(())
}
